"""Trains a model on labelled images; a run can be interrupted at any time and resumed."""
