"""The table of bad input, first part: settings as they are typed, and the sentence each gets.

A row is a line as typed behind a sound command, and below it, indented, what follows `error: `;
{methods} there stands for the names of all methods.
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
    'learning_rate' is no setting; did you mean learning-rate or server-learning-rate or
    personalise-rate?
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
    'rounds 3' is no setting; did you mean rounds or held-out-rounds or stage-one-rounds?
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
adapter-alpha=0
    adapter-alpha: 0.0 must be above 0.
adapter-targets=q,value
    adapter-targets: 'value' is no linear layer of a block; with adapter=none list some of q, k,
    v, o, fc1, fc2.
adapter=serial adapter-targets=mlp,q
    adapter-targets: 'q' is no branch of a block; with adapter=serial list some of attention, mlp.
adapter=ssf adapter-targets=mlp
    adapter-targets: 'ssf' acts everywhere in a block; leave it empty.
image-size=10000
    image-size: 10000 must be 4096 or less.
num-clients=99999999999
    num-clients: 99999999999 must be 1000000 or less.
report=yes
    report: 'yes' is not true or false.
report=1
    report: '1' is not true or false.
method=accumulate
    method: 'accumulate' is not one of {methods}. Did you mean accumulator?
method=Exits
    method: 'Exits' is not one of {methods}. Did you mean exits?
method=
    method: '' is not one of {methods}.
method=\x1b[31mred
    method: '\\x1b[31mred' is not one of {methods}.
partition=dirichelet
    partition: 'dirichelet' is not one of iid, dirichlet, dirichlet-equal, pathological,
    natural. Did you mean dirichlet?
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
server-optimizer=adamw
    server-optimizer: 'adamw' is not one of sgd, momentum, adam, yogi, dyn. Did you mean adam?
server-momentum=1
    server-momentum: 1.0 must be 0.9999 or less.
server-tau=0
    server-tau: 0.0 must be above 0.
mofm-gate=soft
    mofm-gate: 'soft' is not one of adapter, private, scalar, half, local.
activation=cosine
    activation: 'cosine' is not one of linear, plateau, all.
activation-ramp=1.5
    activation-ramp: 1.5 must be 1 or less.
dyn-alpha=0
    dyn-alpha: 0.0 must be above 0.
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
stage-one-rounds=4
    stage-one-rounds: 4 is neither a whole number up to the rounds of 3 nor, below 1, a share of
    them; correct it.
stage-one-rounds=1.5
    stage-one-rounds: 1.5 is neither a whole number up to the rounds of 3 nor, below 1, a share of
    them; correct it.
activation=plateau gate-share=0
    activation: plateau needs a gate-share above 0, as the accuracy on this share decides; raise
    it, or choose another activation.
server-optimizer=dyn aggregation=median
    server-optimizer: dyn mirrors what clients sent, so it needs the unweighted aggregation=mean
    with clip-update and noise-multiplier at 0; set these, or choose another.
server-optimizer=dyn clip-update=1
    server-optimizer: dyn mirrors what clients sent, so it needs the unweighted aggregation=mean
    with clip-update and noise-multiplier at 0; set these, or choose another.
server-optimizer=dyn server-learning-rate=1
    server-learning-rate: server-optimizer=dyn has none; leave it at 0.
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
