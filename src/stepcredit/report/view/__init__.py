"""The live page of a folder: training curves, results and credit pages, refreshed while runs go on."""
