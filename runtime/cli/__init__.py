"""The command line: words in, one of the runtime's verbs called, text and an exit status out.

`grammar` is the only list of commands and options. `argv` reads words by it, strictly and fast; `app` reads them with
click, by the same list, and explains. One module per command carries it out as `run(args) -> int`.
"""
