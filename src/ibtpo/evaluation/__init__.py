"""Grades: of a model on problems, of stored answers, of a data set's own reference answers, and their statistics."""
