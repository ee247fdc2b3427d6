"""What a model can be made to do at decoding time, with no tuned model and no weight changed."""
