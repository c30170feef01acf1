"""Do operations help? Crop alone against slow, loud, high and low, in a world where half of all sounds need one."""
