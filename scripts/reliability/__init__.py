"""Kills `erase` at random moments and at every file replacement, starts it again, and compares with undisturbed runs.

python -m scripts.reliability [--only short,long,signals,writes,two,watch] [--output docs/results/reliability.json]

Every trial has a folder and a cache of its own, so that each phase really happens, and every command is a fresh process
(forked from one that has done the imports) whose continuation is the same command. The record is written after each
trial, and trials that it holds are not repeated. Needs a POSIX system.
"""
