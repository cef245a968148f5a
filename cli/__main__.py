"""`python -m cli` is `verilora`."""

from cli import app

if __name__ == "__main__":
    app(prog_name="verilora")
