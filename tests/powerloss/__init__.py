"""The power is cut at any moment, and calls to the operating system fail.

shim.c notes what a program does to its files; trace.py reads the notes; disk.py knows what a disk may hold after a
cut, and images.py builds that. workload.py is the program, oracle.py what must hold of every image, survive.py the
process that opens one. plants.py breaks the store on purpose, faults.py makes single calls fail. By hand:

    python -m tests.powerloss --images 10000
"""
