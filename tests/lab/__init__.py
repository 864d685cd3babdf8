"""The lab: boots real Debian kernels in QEMU and says what ksmd really did there."""
