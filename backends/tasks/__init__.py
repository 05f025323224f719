"""Data the models under test are trained and measured on; one module a data set."""
