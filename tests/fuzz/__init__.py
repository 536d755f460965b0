"""Damaged and hostile checkpoints, and writing that is cut off: the ordeals of this program.

campaign    which ordeals there are, and what is counted
samples     six whole checkpoints, one per format, each with a manifest
damage      bits flipped, ends cut off, bytes appended
hostile     files made to do harm, a module per format
mutants     what becomes of them by random changes
warden      reads files in a child process, within limits of time and memory
watch       the child: what it sees a file do
bait        files outside, which nothing may open
kills       writing that is killed
refusals    writing that the file system refuses
pairs       from every format to every other
result      tables and JSON
"""
