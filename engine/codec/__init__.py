"""Python values <-> JSON text, by their annotations.

An annotation is compiled once into a `Shape`: a pair of functions, one that makes a value into a tree of what JSON
holds and one that makes the tree into the value again. Classes are compiled by cattrs, text is orjson's. What comes
back equals what went in, and is of the type that the annotation says; whatever would not is refused when it is
encoded, before anything is recorded, never when it is read years later. So:

| annotation | taken | written as |
|---|---|---|
| `int`, `str`, `bool`, `float`, `None` | that type; a `bool` is no `int`; an `int` is a `float` if exactly | itself |
| `Decimal`, `UUID`, `bytes`, `Path`, `datetime`, `date`, `time` | that type; a `datetime` is no `date` | text |
| `timedelta` | that type | text: `PT90.5S` (ISO 8601) |
| an enum | its members | their values, or their names where some value is no JSON scalar |
| attrs class, dataclass, NamedTuple, TypedDict | that very class, not one derived from it | an object |
| `list`, `tuple`, `deque`, `set`, `frozenset` | that type | an array, of sets in the order of canonical text |
| `dict`, `Mapping` | dicts | an object; an array of pairs where keys are neither text nor int |
| `Sequence`, `Iterable`, `Collection` | a list or a tuple, and given back as such | an array; `{"tuple": […]}` |
| a union | what one of its members takes | as that member; `{"Card": …}` where JSON could not tell |
| none, `Any`, `object` | what JSON gives back equal: no tuple, no set, no object, no key but text | itself |

An instance of a class derived from a builtin is given back as the builtin, which it equals (a `StrEnum` member where
`str` is annotated, an `OrderedDict` where `dict` is). Where nothing is annotated there is nothing to tell it by either.
NaN, infinities and lone surrogates are refused; ints may have any size, -0.0 keeps its sign. An aware `datetime` keeps
its instant and offset, not the name of its zone. A class is made again by calling it with its fields: a converter or
`__post_init__` must leave alone what it made itself. Fields that `__init__` does not take are kept where they count in
`==`. A key that is missing takes its default and one too many is passed over, so that classes can grow and shrink.

Reading is as strict as writing. Each direction has a fast pass that stops at the first fault and does not say where,
and a careful one, run only after the fast one failed, that finds all faults with their paths.

To find the way, from the bottom up, as the imports go: `faults` is what is wrong and how it is said, `text` is JSON
text. An annotation, compiled, is a Shape of `shapes`; `compiling` makes it by rules, of which `scalars`,
`unannotated`, `choices`, `unions`, `containers` and `classes` (with `fields`) have those of the table above. `values`
is what a codec does with its shape, `canonical_text` the one spelling of JSON. `annotations` has the table of rules,
and gives each annotation its codec. `recorded_errors` stands on all of them, and on `tagged`, which keeps values that
nobody annotated.
"""

from engine.codec.annotations import codec_for as codec_for
from engine.codec.canonical_text import canonical as canonical
from engine.codec.canonical_text import digest as digest
from engine.codec.faults import refuse as refuse
from engine.codec.recorded_errors import decode_error as decode_error
from engine.codec.recorded_errors import describe_error as describe_error
from engine.codec.recorded_errors import encode_error as encode_error
from engine.codec.text import may_hold_large_int as may_hold_large_int
from engine.codec.text import parse_exactly as parse_exactly
from engine.codec.values import ValueCodec as ValueCodec
