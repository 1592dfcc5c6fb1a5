"""A model set and films go in; the numbers of MODELS.md section 4 come out."""
