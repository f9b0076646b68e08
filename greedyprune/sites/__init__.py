"""Sites of models as data, and changes of their widths."""
