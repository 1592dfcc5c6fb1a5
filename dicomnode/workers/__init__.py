"""Processes that own a model: jobs or ROIs in, regions and vectors out. Only here are pixels decoded and models run."""
