"""Tables, plots and pages; reads result files only."""
