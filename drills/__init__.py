"""Drills: real runs of a tiny model that are killed, stalled, damaged and starved, and must end in the numbers of a run that nothing disturbed.

python -m drills [NAME ...] [--list] [--write]          (make drills)
python -m drills.soak --minutes=60                      (make soak)
"""
