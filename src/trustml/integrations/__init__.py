"""Third parties under our face, one file each; nothing here is imported until it is asked for."""
