"""What a proof costs before it is made: counted work and live memory, times rates measured on the machine at hand."""
