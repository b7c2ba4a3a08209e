from .checking import Exercise, check, find_exercise, judge, solution_text

__all__ = ["Exercise", "check", "find_exercise", "judge", "solution_text"]
