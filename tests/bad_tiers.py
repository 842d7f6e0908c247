"""The table of bad input, second part: tiers, what they hold, and files of settings."""

from __future__ import annotations

from bad_settings import read

TIERS_AND_FILES = read("""
# tiers
tiers=
    tiers: '' must name one or more tiers, each once.
tiers=';;'
    tiers: ';;' must name one or more tiers, each once.
tiers=all
    tiers: 'all' should read 'name depth=D [trained=T] [rank=R] share=S', or have clients=0,3,5-9 in
    place of the share.
tiers='all depth=6'
    tiers: 'all depth=6' should read 'name depth=D [trained=T] [rank=R] share=S', or have
    clients=0,3,5-9 in place of the share.
tiers='all share=1'
    tiers: 'all share=1' should read 'name depth=D [trained=T] [rank=R] share=S', or have
    clients=0,3,5-9 in place of the share.
tiers='depth=6 share=1'
    tiers: 'depth=6 share=1' should read 'name depth=D [trained=T] [rank=R] share=S', or have
    clients=0,3,5-9 in place of the share.
tiers='all depth = 6 share = 1'
    tiers: 'all depth = 6 share = 1' should read 'name depth=D [trained=T] [rank=R] share=S', or
    have clients=0,3,5-9 in place of the share.
tiers='all depth=6 share=1 clients=0'
    tiers: 'all depth=6 share=1 clients=0' should read 'name depth=D [trained=T] [rank=R] share=S',
    or have clients=0,3,5-9 in place of the share.
tiers='all depth=6 depth=3 share=1'
    tiers: 'all depth=6 depth=3 share=1' should read 'name depth=D [trained=T] [rank=R] share=S', or
    have clients=0,3,5-9 in place of the share.
tiers='all depth=6 share=1 rank=8'
    tiers: 'all depth=6 share=1 rank=8' cannot be read: rank needs an adapter that has one: lora,
    parallel or serial.
tiers='all depth=6 share=1 rank=33' adapter=lora
    tiers: 'all depth=6 share=1 rank=33' cannot be read: rank=33 is not between 1 and the
    adapter-rank of 32.
tiers='all depth=6 share=1 rank=0' adapter=serial
    tiers: 'all depth=6 share=1 rank=0' cannot be read: rank=0 is not between 1 and the
    adapter-rank of 32.
tiers='a depth=6 rank=8 share=0.5; b depth=6 share=0.5' adapter=lora method=inclusivefl
    tiers: 'a' and 'b' both end at the exit after block 6, which makes them one tier of InclusiveFL;
    let them have one rank (now 8 and 32), or end at different exits.
tiers='a depth=4 share=0.5; b depth=5 trained=1 share=0.5' adapter=ssf method=inclusivefl
    tiers: 'a' and 'b' both end at the exit after block 4, which makes them one tier of InclusiveFL;
    let them train the same blocks, or end at different exits.
scalefl-widths=0.5,1 method=scalefl
    scalefl-widths: '0.5,1' is no list of 3 ascending shares of the width, one for each exit, that
    ends at 1; give one such as 0.4,0.55,0.75,1, or leave it empty.
rank-aggregation=product
    rank-aggregation: product needs adapter=lora, and it is none; change it, or set
    rank-aggregation to truncate.
rank-aggregation=product adapter=lora aggregation=median
    rank-aggregation: product needs aggregation=mean, and it is median; change it, or set
    rank-aggregation to truncate.
rank-aggregation=product adapter=lora server-optimizer=adam
    rank-aggregation: product needs server-optimizer=sgd, and it is adam; change it, or set
    rank-aggregation to truncate.
rank-aggregation=product adapter=lora server-learning-rate=0.5
    rank-aggregation: product needs server-learning-rate=0, and it is 0.5; change it, or set
    rank-aggregation to truncate.
rank-aggregation=product adapter=lora noise-multiplier=1 clip-update=1
    rank-aggregation: product needs noise-multiplier=0, and it is 1.0; change it, or set
    rank-aggregation to truncate.
rank-aggregation=product adapter=lora method=scalefl
    rank-aggregation: method scalefl averages element by element; set it to truncate.
tiers='a depth=6 share=1, b depth=3 share=0'
    tiers: 'a depth=6 share=1, b depth=3 share=0' should read 'name depth=D [trained=T] [rank=R]
    share=S', or have clients=0,3,5-9 in place of the share.
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
    tiers: 'all' reaches no exit, as the first is after block 2; make the tier deeper, or add an
    exit.
tiers='all depth=6 trained=7 share=1'
    tiers: 'all depth=6 trained=7 share=1' cannot be read: trained=7 is not between 1 and 6
    blocks.
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
    'local_epochs' is no setting; did you mean local-epochs or personalise-epochs or
    downstream-epochs?
--config {files}/configs/dotted.toml
    'a.b' is no setting; see docs/settings.md.
--config {files}/configs/deep.toml
    {files}/configs/deep.toml is no TOML file: maximum recursion depth exceeded.
""")
