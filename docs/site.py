"""What `mkdocs build` makes the site from: pages of the repository, notebooks, the reference.

Pages keep their places in the repository, so that their links hold here as they do there.
"""

import base64
import functools
import inspect
import json
import pathlib
import re

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "experiments/**/*.md"]
# What pages show or link to.
ASSETS = [
    "docs/*.css",
    "docs/*.png",
    "experiments/results/**/*.png",
    "experiments/results/**/*.json",
]
# The pages of the guide that have a place of their own; the others follow.
FIRST = ["index", "concepts", "pretraining", "finetuning", "coming_from"]
# Modules for the package itself. Others that `sda` does not import are there to be imported.
INTERNAL = {
    "__main__",
    "checkpoints",
    "checks",
    "distribution",
    "files",
    "forks",
    "layers",
    "models",
    "recipe",
    "rows",
    "saving",
    "streams",
    "training",
    "version",
}


# The reference.


@functools.cache
def package():
    return griffe.load("sda", search_paths=[ROOT])


@functools.cache
def reference():
    """Return a dictionary of modules to the public names on their page, ordered by title."""
    pages = {}
    for name in map(str, package().exports):
        item = package().members[name]
        if item.is_module:
            _add(item.final_target if item.is_alias else item, pages)
        elif name != "__version__":
            # A room is a page, of however many files it is made.
            room = ".".join(item.final_target.path.split(".")[:2])
            pages.setdefault(room, []).append(f"sda.{name}")
    for name, item in package().members.items():
        foreign = item.is_alias and not item.target_path.startswith("sda.")
        if not foreign and item.is_module and item.path not in pages and name not in INTERNAL:
            _add(item, pages)
    return {module: pages[module] for module in sorted(pages, key=_title)}


def _add(module, pages):
    """Put the public names of a module, and of the modules that it exports, into `pages`."""
    for name, item in module.members.items():
        own = name[0] != "_" and not item.is_alias and not item.is_module
        if not (name in module.exports if module.exports else own):
            continue
        if item.is_module:
            _add(item, pages)
        elif (item.is_class or item.is_function) and item.has_docstring:
            pages.setdefault(module.path, []).append(f"{module.path}.{name}")


def _title(module):
    return module.split(".")[-1]


def _first_line(path):
    docstring = package()[path.removeprefix("sda.")].docstring
    return docstring.value.splitlines()[0] if docstring else ""


def reference_pages():
    """Yield the paths and texts of the reference: all names in one list, then each module."""
    lines = ["# All names"]
    for module, names in reference().items():
        summary = _first_line(module)
        lines.append(f"\n## [{_title(module)}]({module}.md)\n\n{summary}\n")
        lines += [f"- [`{name}`][{name}] – {_first_line(name)}" for name in names]
        entries = [f"::: {name}" for name in names]
        yield f"reference/{module}.md", "\n\n".join([f"# {_title(module)}", summary, *entries])
    yield "reference/index.md", "\n".join(lines)


class Docstrings(griffe.Extension):
    """Puts into Markdown what docstrings have in the manner of Keras."""

    def on_package(self, *, pkg, **kwargs):
        self.rewrite(pkg)

    def rewrite(self, item):
        if item.docstring:
            item.docstring.value = linked(as_markdown(item.docstring.value))
        for member in item.members.values():
            if not member.is_alias:
                self.rewrite(member)


def as_markdown(text):
    """Return a docstring with its sessions fenced, and the sections that the parser lacks."""

    def one_each(match):
        names, meaning = match.groups()
        return "\n".join(f"    {name}: {meaning}" for name in re.split(r",\s+", names))

    def returns(match):  # as a section it would show an empty name and type
        return f"**Returns:**\n\n{inspect.cleandoc(match[1])}\n\n"

    text = re.sub(r"^(>>> .*\n?(?:.+\n?)*)", r"```pycon\n\1\n```\n", text, flags=re.M)
    text = re.sub(r"^ {4}(\w+(?:,\s+\w+)+): (.*)$", one_each, text, flags=re.M)
    text = re.sub(r"^Returns:\n((?: +.*\n?|\n(?= ))+)", returns, text, flags=re.M)
    text = text.replace("Call arguments:\n", "Keyword Args: Call arguments\n")
    return text.replace("Example:\n", "**Example:**\n")


def linked(text):
    """Return Markdown where each public name in backticks, alone, is a link to its entry."""
    known = {name for names in reference().values() for name in names}

    def link(match):
        return f"[`{match[1]}`][{match[1]}]" if match[1] in known else match[0]

    return re.sub(r"(?<!\[)`(sda(?:\.\w+)+)`(?!\])", link, text)


# Notebooks.


def notebook_page(path):
    """Return a notebook as a page, and a dictionary of its pictures' names to their bytes."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![]({name})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                text = re.sub(r"\x1b\[[\d;]*m", "", text)  # colours of a terminal
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts), pictures


def with_mathml(text):
    """Return Markdown with its formulas, $…$ and $$…$$ outside of code, as MathML."""

    def formula(match):
        code, block, inline = match.groups()
        if code:
            return code
        # At the beginning of a line <math> would end the paragraph, <span> does not.
        return convert(block, display="block") if block else f"<span>{convert(inline)}</span>"

    pattern = r"(^```.*?^```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\s](?:[^$\n]*[^$\s])?)\$(?!\w)"
    return re.sub(pattern, formula, text, flags=re.MULTILINE | re.DOTALL)


# What MkDocs calls.


def on_config(config):
    guide = [p.stem for p in (ROOT / "docs").glob("*.md")]
    guide.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    notebooks = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
    config.nav = [
        {"Home": "README.md"},
        {"Guide": [f"docs/{name}.md" for name in guide]},
        {"Notebooks": [f"notebooks/{name}.md" for name in notebooks]},
        {"Experiments": "experiments/README.md"},
        {"Reference": ["reference/index.md", *(f"reference/{m}.md" for m in reference())]},
        {"Changes": "CHANGELOG.md"},
    ]
    return config


def on_files(files, config):
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted({p.relative_to(ROOT) for glob in PAGES + ASSETS for p in ROOT.glob(glob)})
    there = [
        File(path.as_posix(), str(ROOT), config.site_dir, config.use_directory_urls)
        for path in paths
    ]
    made = dict(reference_pages())
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        made[f"notebooks/{path.stem}.md"], pictures = notebook_page(path)
        made.update({f"notebooks/{name}": content for name, content in pictures.items()})
    made = [File.generated(config, path, content=content) for path, content in made.items()]
    return Files([*theme, *there, *made])


def on_page_markdown(markdown, page, config, files):
    # A notebook is a page here.
    markdown = re.sub(r"(\]\([\w./]*)\.ipynb\)", r"\1.md)", markdown)
    return linked(with_mathml(markdown))
