"""The one exception that the command line turns into a line and exit code 2."""


class UserError(Exception):
    """Something the user gave cannot be used.

    Its message is one line that says what is wrong, where, and what to do. Library callers may catch it;
    the tools print it as ``error: <message>`` and exit with code 2.
    """
