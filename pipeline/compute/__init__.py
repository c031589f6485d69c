"""What the stages share on top of torch. The only room of the kernel that may import it; nothing else here does."""
