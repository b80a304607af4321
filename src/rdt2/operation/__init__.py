"""A robot of any kind and the people at it: opened, checked, brought home, driven, looked at before it moves.

`rdt2 run`, `rdt2 reset`, `rdt2 demo` and `rdt2 evaluate cell` are made of this.
"""
