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
    adapter-targets: 'value' is no linear layer of a block; list some of q, k, v, o, fc1, fc2.
adapter=serial adapter-targets=mlp,q
    adapter-targets: 'q' is no branch of a block; list some of attention, mlp.
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
# personal attention
personal-heads=maybe
    personal-heads: 'maybe' is not true or false.
attention-form=lora
    attention-form: 'lora' is not one of factors, projections.
attention-rank=0
    attention-rank: 0 must be 1 or more.
attention-rank=5000
    attention-rank: 5000 must be 4096 or less.
attention-alpha=0
    attention-alpha: 0.0 must be above 0.
attention-factor-seed=-1
    attention-factor-seed: -1 must be 0 or more.
hyper-attention-rate=0
    hyper-attention-rate: 0.0 must be above 0.
hyper-attention-rate=nan
    hyper-attention-rate: nan is not a finite number.
hyper-attention-momentum=1
    hyper-attention-momentum: 1.0 must be 0.999 or less.
hyper-attention-row-rate=0
    hyper-attention-row-rate: 0.0 must be above 0.
hyper-attention-embedding=0
    hyper-attention-embedding: 0 must be 1 or more.
hyper-attention-hidden=9999
    hyper-attention-hidden: 9999 must be 4096 or less.
hyper-attention-layers=-1
    hyper-attention-layers: -1 must be 0 or more.
hyper-attention-shared-head=1
    hyper-attention-shared-head: '1' is not true or false.
hyper-attention-zero-start=no
    hyper-attention-zero-start: 'no' is not true or false.
hyper-attention-clip-delta=-1
    hyper-attention-clip-delta: -1.0 must be 0 or more.
hyper-attention-share-cap=0
    hyper-attention-share-cap: 0.0 must be above 0.
hyper-attention-share-cap=1.1
    hyper-attention-share-cap: 1.1 must be 1 or less.
hyper-attention-max-parameters=0
    hyper-attention-max-parameters: 0 must be 1 or more.
method=hyper-attention hyper-attention-max-parameters=41455
    hyper-attention-max-parameters: the hypernetwork has 41,456 parameters, and as many momenta
    and gradients; 41,455 are allowed. Raise it, or take a shared head, a smaller rank or
    attention-form=factors.
method=hyper-attention attention-form=projections
    hyper-attention-zero-start: whole projections of zero pass nothing on and learn nothing; set
    it to false, or attention-form to factors.
method=hyper-attention noise-multiplier=1 clip-update=1
    noise-multiplier: hyper-attention learns from each client's change by itself, without noise,
    so no epsilon would hold; set it to 0, or take local-attention.
method=hyper-attention server-optimizer=dyn
    server-optimizer: dyn holds clients back to one bank, and with hyper-attention each gets
    tensors of its own; choose another.
identity=name
    identity: 'name' is not one of auto, config-key, partition, node.
identity=config-key
    no node can take part: identity: this node has no client-key, which the run tells clients
    apart by; add it to its --node-config, or choose another identity.
held-out-clients=1-4
    held-out-clients: '1-4' is no range of the 4 clients, which count from 0; give one such as
    0-3.
held-out-clients=3-2
    held-out-clients: '3-2' is no range of the 4 clients, which count from 0; give one such as
    0-3.
held-out-clients=0,1,3
    held-out-clients: without these 3 of 4 clients there are fewer than the clients-per-round of
    2; hold out fewer.
method=hyper-attention held-out-rounds=
    held-out-rounds: '' is no list of numbers of rounds; give one such as 0,10,50.
method=hyper-attention held-out-rounds=0,-1
    held-out-rounds: '0,-1' is no list of numbers of rounds; give one such as 0,10,50.
method=local-attention state-dir={vit}/config.json
    state-dir: {vit}/config.json cannot be written to (File exists); give another folder.
method=local-attention state-dir=~nobody-here/own
    state-dir: '~nobody-here/own' is no path here (Could not determine home directory); correct
    it.
stored-views=4
    stored-views: without random changes all views of an image are the same; set augment, or
    leave it at 0.
cache-dtype=bf16
    cache-dtype: 'bf16' is not one of fp32, fp16. Did you mean fp16?
cache-place=file
    cache-place: 'file' is not one of memory, disk.
# layer by layer
method=layerwise
    adapter: method layerwise trains what is inside the blocks, and adapter=none leaves nothing
    there; choose another, such as parallel.
method=layerwise adapter=ssf
    rounds: 3 are fewer than the 6 phases; raise it, or train more blocks at a time (window).
method=layerwise adapter=ssf window=2 layer-order=down
    layer-order: 'down' is not one of top-down, bottom-up, progressive. Did you mean top-down?
method=layerwise adapter=ssf window=0
    window: 0 must be 1 or more.
method=layerwise adapter=ssf window=2 depth-budget=3
    depth-budget: 3 does not hold the 4 blocks that stay in every pass (the first, those trained
    and the last); raise it to that.
method=layerwise adapter=ssf window=3 tiers='all depth=6 trained=2 share=1'
    tiers: 'all' can take part in no phase of order top-down; give it more depth, or more trained
    blocks.
method=layerwise adapter=ssf window=2 tiers='all depth=6 trained=2 share=1'
    tiers: none can train blocks 3 to 4 in order top-down; give one of them more depth, or more
    trained blocks.
# training without labels
objective=contrastive
    objective: 'contrastive' is not one of supervised, simclr.
objective=simclr
    objective: simclr trains blocks alone, and accumulator has parts beside them; set method to
    exits or layerwise.
objective=simclr method=exits
    objective: simclr leaves nothing behind with adapter=none, as its head is thrown away; choose
    another, such as full.
objective=simclr method=exits adapter=full batch-size=1
    objective: simclr tells the images of a batch apart, so batch-size must be 2 or more; raise
    it.
objective=simclr method=exits adapter=full sampling=class-balanced
    objective: simclr reads no labels, which sampling=class-balanced needs; set it to shuffled.
objective=simclr method=exits adapter=full personalise-epochs=1
    objective: simclr gives the clients no classifier that could be scored; set
    personalise-epochs to 0, and hold out no clients.
objective=simclr method=exits adapter=full held-out-clients=3
    objective: simclr gives the clients no classifier that could be scored; set
    personalise-epochs to 0, and hold out no clients.
simclr-temperature=0
    simclr-temperature: 0.0 must be above 0.
view-crop=1.5
    view-crop: 1.5 must be 1 or less.
view-jitter=2
    view-jitter: 2.0 must be 1 or less.
backbone-start=zero
    backbone-start: 'zero' is not one of pretrained, random.
downstream-images=-1
    downstream-images: -1 must be 0 or more.
downstream-epochs=-1
    downstream-epochs: -1 must be 0 or more.
downstream-rate=-1
    downstream-rate: -1.0 must be 0 or more.
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
