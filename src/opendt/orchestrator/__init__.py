"""The loop: the only place that knows all that lies below it. Environments differ in what one factory builds, nowhere else."""
