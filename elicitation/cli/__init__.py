"""The command `lab`: a file for every verb, and one for the frame."""
