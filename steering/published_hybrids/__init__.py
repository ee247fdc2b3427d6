"""The two published methods of hybrid steering, with their faults as values that can be switched."""
