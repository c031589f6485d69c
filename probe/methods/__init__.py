"""What is measured: each method turns features into results."""
