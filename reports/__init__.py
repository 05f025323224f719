"""What is made of results: tracking, statistics, plots, pages."""
