"""Tasks: problems and the verifiers that judge completions."""
