"""The table of bad input, first part: settings as they are typed, and the sentence each gets.

A row is a line as typed behind a sound command, and below it, indented, what follows `error: `.
"""

from __future__ import annotations


def read(table: str) -> dict[str, str]:
    """Return the rows of a table: sentence by line; lines that start with # are headings."""
    rows: dict[str, str] = {}
    given = ""
    for line in table.strip().splitlines():
        if line.startswith(" "):
            rows[given] = f"{rows[given]} {line.strip()}".lstrip()
        elif not line.startswith("#"):
            given = line
            assert given not in rows, f"{given} stands in the table twice"
            rows[given] = ""
    return rows


SETTINGS = read("""
# keys and values
roundz=3
    'roundz' is no setting; did you mean rounds or round-timeout?
learning_rate=1
    'learning_rate' is no setting; did you mean learning-rate or head-rate?
zzz=1
    'zzz' is no setting; see docs/settings.md.
rounds
    'rounds' should read key=value.
rounds 3
    'rounds' should read key=value.
--rounds=3
    unrecognized arguments: --rounds=3; settings read key=value, and --help tells the rest.
=3
    '' is no setting; see docs/settings.md.
'rounds 3=5'
    'rounds 3' is no setting; did you mean rounds?
rounds=
    rounds: '' is not a whole number.
rounds=ten
    rounds: 'ten' is not a whole number.
rounds=1e3
    rounds: '1e3' is not a whole number.
rounds=1.5
    rounds: '1.5' is not a whole number.
rounds=0x10
    rounds: '0x10' is not a whole number.
rounds=0
    rounds: 0 must be 1 or more.
rounds=-1
    rounds: -1 must be 1 or more.
rounds=1000001
    rounds: 1000001 must be 1000000 or less.
rounds==3
    rounds: '=3' is not a whole number.
batch-size=99999999999999999999
    batch-size: 99999999999999999999 must be 9223372036854775807 or less.
learning-rate=fast
    learning-rate: 'fast' is not a number.
learning-rate=nan
    learning-rate: nan is not a finite number.
learning-rate=1e400
    learning-rate: inf is not a finite number.
learning-rate=0
    learning-rate: 0.0 must be above 0.
alpha=-0.5
    alpha: -0.5 must be above 0.
alpha=1e308
    alpha: 1e+308 must be 1000000000.0 or less.
test-share=1
    test-share: 1.0 must be 0.9 or less.
seed=4294967296
    seed: 4294967296 must be 4294967295 or less.
seed=-1
    seed: -1 must be 0 or more.
seed=1.0
    seed: '1.0' is not a whole number.
round-timeout=1e-9
    round-timeout: 1e-09 must be 1 or more.
client-cpus=100000
    client-cpus: 100000 must be 1024 or less.
adapter-rank=100000000000
    adapter-rank: 100000000000 must be 4096 or less.
image-size=10000
    image-size: 10000 must be 4096 or less.
num-clients=99999999999
    num-clients: 99999999999 must be 1000000 or less.
report=yes
    report: 'yes' is not true or false.
report=1
    report: '1' is not true or false.
method=accumulate
    method: 'accumulate' is not one of accumulator, exits. Did you mean accumulator?
method=Exits
    method: 'Exits' is not one of accumulator, exits. Did you mean exits?
method=
    method: '' is not one of accumulator, exits.
method=\x1b[31mred
    method: '\\x1b[31mred' is not one of accumulator, exits.
partition=dirichelet
    partition: 'dirichelet' is not one of iid, dirichlet, pathological, natural. Did you mean
    dirichlet?
precision=fp16
    precision: 'fp16' is not one of auto, fp32, bf16. Did you mean bf16?
wire-dtype=fp64
    wire-dtype: 'fp64' is not one of fp32, fp16, bf16, int8. Did you mean fp16?
augment=rotate
    augment: 'rotate' is not one of none, shift, crop.
aggregation=average
    aggregation: 'average' is not one of mean, median, trimmed-mean.
optimizer=adam
    optimizer: 'adam' is not one of sgd, momentum, adamw. Did you mean adamw?
# values that contradict each other
clients-per-round=5
    clients-per-round: 5 is more than the num-clients of 4; lower it, or raise num-clients.
min-replies=3
    min-replies: 3 can never come from the clients-per-round of 2; lower it.
noise-multiplier=1
    noise-multiplier: noise needs a clip-update above 0 and aggregation=mean; set both, or leave
    noise-multiplier at 0.
noise-multiplier=1 clip-update=1 aggregation=median
    noise-multiplier: noise needs a clip-update above 0 and aggregation=mean; set both, or leave
    noise-multiplier at 0.
noise-multiplier=1e-300 clip-update=1
    noise-multiplier: 1e-300 over 3 rounds protects nobody; raise it, or set it to 0.
# exits and classes
exits=
    exits: '' is neither a number of exits nor blocks such as 3,6,9,12; correct it.
exits=0
    exits: 0 exits do not divide 6 blocks evenly; use one of 1, 2, 3, 6, or list the blocks.
exits=4
    exits: 4 exits do not divide 6 blocks evenly; use one of 1, 2, 3, 6, or list the blocks.
exits=-3
    exits: -3 exits do not divide 6 blocks evenly; use one of 1, 2, 3, 6, or list the blocks.
exits=a
    exits: 'a' is neither a number of exits nor blocks such as 3,6,9,12; correct it.
exits=3,,6
    exits: '3,,6' is neither a number of exits nor blocks such as 3,6,9,12; correct it.
exits=6,3
    exits: 6,3 are not ascending block numbers from 1; list each block once.
exits=2,2
    exits: 2,2 are not ascending block numbers from 1; list each block once.
exits=0,3
    exits: 0,3 are not ascending block numbers from 1; list each block once.
exits=7,
    exits: there is no block 7; the backbone has 6 blocks, so list blocks up to that.
classes=ape
    classes: with 1 there is nothing to tell apart; give data of two or more, or name all
    classes of the federation in the setting.
classes=a,,b
    classes: 'a,,b' must name each class once, separated by single commas.
classes=a,a
    classes: 'a,a' must name each class once, separated by single commas.
classes=,
    classes: ',' must name each class once, separated by single commas.
classes=a,b
    classes: the data hold '0', which is not among a, b; add it to the setting, or rename or
    remove it in the data.
# device
device=
    device: '' cannot be used here (Device string must not be empty); set auto, cpu, or a GPU
    that this machine has ({gpus} of CUDA).
device=meta
    device: 'meta' cannot be used here (Tensor.item() cannot be called on meta tensors); set
    auto, cpu, or a GPU that this machine has ({gpus} of CUDA).
""")

TIERS_AND_FILES = read("""
# tiers
tiers=
    tiers: '' must name one or more tiers, each once.
tiers=';;'
    tiers: ';;' must name one or more tiers, each once.
tiers=all
    tiers: 'all' should read 'name depth=D [trained=T] share=S' or 'name depth=D [trained=T]
    clients=0,3,5-9'.
tiers='all depth=6'
    tiers: 'all depth=6' should read 'name depth=D [trained=T] share=S' or 'name depth=D
    [trained=T] clients=0,3,5-9'.
tiers='all share=1'
    tiers: 'all share=1' should read 'name depth=D [trained=T] share=S' or 'name depth=D
    [trained=T] clients=0,3,5-9'.
tiers='depth=6 share=1'
    tiers: 'depth=6 share=1' should read 'name depth=D [trained=T] share=S' or 'name depth=D
    [trained=T] clients=0,3,5-9'.
tiers='all depth = 6 share = 1'
    tiers: 'all depth = 6 share = 1' should read 'name depth=D [trained=T] share=S' or 'name
    depth=D [trained=T] clients=0,3,5-9'.
tiers='all depth=6 share=1 clients=0'
    tiers: 'all depth=6 share=1 clients=0' should read 'name depth=D [trained=T] share=S' or
    'name depth=D [trained=T] clients=0,3,5-9'.
tiers='all depth=6 depth=3 share=1'
    tiers: 'all depth=6 depth=3 share=1' should read 'name depth=D [trained=T] share=S' or 'name
    depth=D [trained=T] clients=0,3,5-9'.
tiers='all depth=6 share=1 rank=8'
    tiers: 'all depth=6 share=1 rank=8' should read 'name depth=D [trained=T] share=S' or 'name
    depth=D [trained=T] clients=0,3,5-9'.
tiers='a depth=6 share=1, b depth=3 share=0'
    tiers: 'a depth=6 share=1, b depth=3 share=0' should read 'name depth=D [trained=T] share=S'
    or 'name depth=D [trained=T] clients=0,3,5-9'.
tiers='a depth=6 share=1; a depth=3 share=0'
    tiers: 'a depth=6 share=1; a depth=3 share=0' must name one or more tiers, each once.
tiers='a depth=6 share=0.5; b depth=3 share=0.4'
    tiers: the shares add up to 0.9; make them add up to 1.
tiers='a depth=6 share=1.5; b depth=3 share=-0.5'
    tiers: 'a depth=6 share=1.5' cannot be read: share=1.5 is no number from 0 to 1.
tiers='all depth=6 share=nan'
    tiers: 'all depth=6 share=nan' cannot be read: share=nan is no number from 0 to 1.
tiers='all depth=6 share=half'
    tiers: 'all depth=6 share=half' cannot be read: share=half is no number from 0 to 1.
tiers='all depth=six share=1'
    tiers: 'all depth=six share=1' cannot be read: depth=six is not between 1 and 6 blocks.
tiers='all depth=0 share=1'
    tiers: 'all depth=0 share=1' cannot be read: depth=0 is not between 1 and 6 blocks.
tiers='all depth=7 share=1'
    tiers: 'all depth=7 share=1' cannot be read: depth=7 is not between 1 and 6 blocks.
tiers='all depth=6.0 share=1'
    tiers: 'all depth=6.0 share=1' cannot be read: depth=6.0 is not between 1 and 6 blocks (with
    a point it is a fraction of them).
tiers='all depth=1 share=1'
    tiers: a depth of 1 blocks reaches no exit; the first is after block 2, so make the tier
    deeper or add an exit.
tiers='all depth=6 trained=7 share=1'
    tiers: 'all depth=6 trained=7 share=1' cannot be read: trained=7 is not between 1 and 6
    blocks.
tiers='all depth=3 trained=1 share=1' method=exits
    tiers: 'all' trains nothing (its last 1 of 3 blocks hold no adapter); give it more trained
    blocks, or an exit.
tiers='all depth=6 clients=0-1'
    tiers: client 2 is in no tier; list it, or give the tiers shares.
tiers='all depth=6 clients=3-0'
    tiers: 'all depth=6 clients=3-0' cannot be read: 3-0 runs backwards.
tiers='all depth=6 clients=-1'
    tiers: 'all depth=6 clients=-1' cannot be read: '-1' is neither a client such as 3 nor a
    range such as 5-9.
tiers='all depth=6 clients=0,x'
    tiers: 'all depth=6 clients=0,x' cannot be read: 'x' is neither a client such as 3 nor a
    range such as 5-9.
tiers='all depth=6 clients=0-9'
    tiers: there is no client 9; the 4 clients count from 0.
tiers='all depth=6 clients=0-99999999999'
    tiers: 'all depth=6 clients=0-99999999999' cannot be read: there is no client 99999999999.
tiers='a depth=6 clients=0,1; b depth=3 clients=1-3'
    tiers: a client is listed in two tiers; list it in one.
tiers='mean depth=6 share=1'
    tiers: 'mean' is a field of summary.json; give the tier another name.
tiers='worst-decile depth=6 share=1'
    tiers: 'worst-decile' is a field of summary.json; give the tier another name.
# settings files
--config
    argument --config: expected one argument; settings read key=value, and --help tells the
    rest.
--config no.toml
    there is no settings file no.toml; configs/ holds examples.
--config ''
    --config: '' is no path here (it is empty); correct it.
--config {files}/configs
    {files}/configs cannot be read as a settings file (Is a directory); configs/ holds examples.
--config {files}/configs/words.toml
    {files}/configs/words.toml is no TOML file: Expected '=' after a key in a key/value pair (at
    line 1, column 8).
--config {files}/configs/binary.toml
    {files}/configs/binary.toml is no TOML file: 'utf-8' codec can't decode byte 0xff in
    position 0: invalid start byte.
--config {files}/configs/table.toml
    {files}/configs/table.toml: 'run' is a table; settings are plain key = value lines.
--config {files}/configs/json.toml
    {files}/configs/json.toml is no TOML file: Invalid statement (at line 1, column 1).
--config {files}/configs/same-key.toml
    {files}/configs/same-key.toml is no TOML file: Cannot overwrite a value (at end of
    document).
--config {files}/configs/python-name.toml
    'local_epochs' is no setting; did you mean local-epochs or personalise-epochs?
--config {files}/configs/dotted.toml
    'a.b' is no setting; see docs/settings.md.
--config {files}/configs/deep.toml
    {files}/configs/deep.toml is no TOML file: maximum recursion depth exceeded.
""")
