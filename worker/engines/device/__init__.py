"""Parts of engines that depend on the device: weights, attention, CUDA graphs, CPU cores, int8."""
