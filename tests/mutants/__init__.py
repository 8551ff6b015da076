"""Small faults put into what decides over jobs, one at a time: does a test of its rooms notice? (`make mutants`)"""
