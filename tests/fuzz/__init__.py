"""Damaged and hostile checkpoints, and writing that is cut off: what this program must survive.

campaign    which suites there are, and what is counted
samples     six whole checkpoints, one per format, each with a manifest
damage      bits flipped, ends cut off, bytes appended
hostile     files made to do harm, a module per format
mutants     what becomes of them by random changes
cases       hostile files, each read once
sandbox     reads files in a child process, within limits of time and memory
watch       the child: what it sees a file do
canaries    files outside, which nothing may open
kills       writing that is killed
disk_errors writing that the file system refuses
pairs       from every format to every other
kill_training  training that is killed, and goes on
result      tables and JSON
"""
