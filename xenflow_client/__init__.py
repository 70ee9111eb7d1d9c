"""The program in the virtual router: the kernel's tables become facts, and facts become messages."""
