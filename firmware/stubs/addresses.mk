# Where each boot stub is linked; ftvm/boot/firmware.py puts them there, and the two must agree.
#
# NAME.address is the -Ttext of NAME.S. A stub that changes to a mode with flat segments is linked at its
# physical address; the BIOS stays in real mode and is linked at its offset in segment F000.

enter32.address := 0xef000
enter64.address := 0xef000
bios.address    := 0x0
