"""What a language model still knows: numbers of TOFU and MUSE, probes, attacks, and the suite ``language``."""
