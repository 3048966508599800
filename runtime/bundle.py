"""interim"""
from __future__ import annotations
import os
from runtime import jsonio
from runtime.errors import Error
class Bundle:
    def __init__(self, path, config, raw): self.path=path; self.config=config; self.raw=raw
def load(d, name="config.json"):
    p=os.path.abspath(d)
    try:
        raw=open(os.path.join(p,name),'rb').read()
    except OSError as e:
        raise Error(f"{p}/{name}: {e.strerror}")
    return Bundle(p, jsonio.loads(raw,"config.json"), raw)
def load_process(path):
    return jsonio.loads(open(path,'rb').read(),path)
