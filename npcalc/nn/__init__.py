"""Building blocks of the model: radial functions, points, polarization, readouts, hosts."""
