"""Lane type, elementary functions, random numbers, sums, and the plan."""
