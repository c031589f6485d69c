"""Ways to use train videos without labels; one file a method, each a function from a task to scores of test rows."""
