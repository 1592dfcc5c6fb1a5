"""A folder of films with regions goes in; a run folder and a model set come out."""
