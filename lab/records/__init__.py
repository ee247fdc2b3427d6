"""Records: errors, tables, provenance, stages, directories, seeds, and work spread over processes."""
