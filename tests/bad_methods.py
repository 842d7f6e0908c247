"""The table of bad input: settings of methods that have many of their own."""

from __future__ import annotations

from bad_settings import read

METHOD_SETTINGS = read("""
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
""")
