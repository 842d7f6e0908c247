"""The table of bad input, fourth part: folders of runs, and the other commands."""

from __future__ import annotations

from bad_settings import read

OUTPUT = read("""
output-dir=
    output-dir: '' is no path here (it is empty); correct it.
output-dir=' '
    output-dir: ' ' is no path here (it is empty); correct it.
output-dir={vit}/config.json
    output-dir: {vit}/config.json cannot be written to (File exists); give another folder.
output-dir={vit}/config.json/below
    output-dir: {vit}/config.json/below cannot be written to (Not a directory); give another
    folder.
output-dir=/proc/run
    output-dir: /proc/run cannot be written to (No such file or directory); give another folder.
output-dir=~nobody-here/run
    output-dir: '~nobody-here/run' is no path here (Could not determine home directory); correct
    it.
output-dir={files}/runs/not-a-run
    output-dir: {files}/runs/not-a-run holds a folder checkpoint that is not of a run; give
    another folder.
""")

RESUME = read("""
resume=' '
    resume: ' ' is no path here (it is empty); correct it.
resume=/no/such/run
    resume: there is no checkpoint in /no/such/run; give the output-dir of a run that has
    finished at least one round.
resume={files}/runs/file
    resume: there is no checkpoint in {files}/runs/file; give the output-dir of a run that has
    finished at least one round.
resume={files}/runs/sound/checkpoint
    resume: there is no checkpoint in {files}/runs/sound/checkpoint; give the output-dir of a
    run that has finished at least one round.
resume={files}/runs/no-checkpoint
    resume: there is no checkpoint in {files}/runs/no-checkpoint; give the output-dir of a run
    that has finished at least one round.
resume={files}/runs/sound seed=4 batch-size=8
    resume: {files}/runs/sound was run with other settings: batch-size was 32 and is 8, seed was
    0 and is 4; add --config {files}/runs/sound/settings.toml to repeat them.
resume={files}/runs/sound method=exits
    resume: {files}/runs/sound was run with other settings: method was 'accumulator' and is
    'exits'; add --config {files}/runs/sound/settings.toml to repeat them.
resume={files}/runs/sound rounds=9
    resume: {files}/runs/sound was run with other settings: rounds was 3 and is 9; add --config
    {files}/runs/sound/settings.toml to repeat them.
resume={files}/runs/sound exits=6
    resume: {files}/runs/sound was run with other settings: exits was '3' and is '6'; add
    --config {files}/runs/sound/settings.toml to repeat them.
resume={files}/runs/format
    resume: {files}/runs/format/checkpoint/round-00003 has format 2, this version reads 1;
    resume with the version that wrote it.
resume={files}/runs/round-0
    resume: {files}/runs/round-0/checkpoint/round-00003 is no checkpoint of fedgraft
    (ValueError: there is no round 0); give another run.
resume={files}/runs/no-settings
    resume: {files}/runs/no-settings/checkpoint/round-00003 is no checkpoint of fedgraft
    (TypeError: 'int' object is not iterable); give another run.
resume={files}/runs/foreign
    resume: {files}/runs/foreign/checkpoint/round-00003 is no checkpoint of fedgraft (KeyError:
    'format'); give another run.
resume={files}/runs/no-json
    resume: {files}/runs/no-json/checkpoint/round-00003 is no checkpoint of fedgraft
    (UnicodeDecodeError: 'utf-8' codec can't decode byte 0x80 in position 0: invalid start
    byte); give another run.
resume={files}/runs/list
    resume: {files}/runs/list/checkpoint/round-00003 is no checkpoint of fedgraft (TypeError:
    list indices must be integers or slices, not str); give another run.
resume={files}/runs/no-state
    resume: {files}/runs/no-state/checkpoint/round-00003 is no checkpoint of fedgraft
    (FileNotFoundError: [Errno 2] No such file or directory:
    '{files}/runs/no-state/checkpoint/round-00003/state.json'); give another run.
resume={files}/runs/torn
    resume: {files}/runs/torn/checkpoint/round-00003 is no checkpoint of fedgraft
    (SafetensorError: Error while deserializing header: header too small); give another run.
resume={files}/runs/pickle
    resume: {files}/runs/pickle/checkpoint/round-00003 is no checkpoint of fedgraft
    (SafetensorError: Error while deserializing header: header too large); give another run.
resume={files}/runs/torn-with-one-before
    resume: {files}/runs/torn-with-one-before/checkpoint/round-00003 is no checkpoint of
    fedgraft (SafetensorError: Error while deserializing header: header too small); remove it to
    resume from round-00002.
resume={files}/runs/tensor-missing
    resume: in the checkpoint of round 3, 'shared.accumulator.down.bias' is missing; it was
    changed after it was written, so resume from another copy.
resume={files}/runs/tensor-foreign
    resume: in the checkpoint of round 3, 'block9.x' is no tensor of this model; it was changed
    after it was written, so resume from another copy.
resume={files}/runs/shape
    resume: in the checkpoint of round 3, 'shared.accumulator.down.bias' is float32 of shape
    (3,), not float32 of shape (24,); it was changed after it was written, so resume from
    another copy.
resume={files}/runs/dtype
    resume: in the checkpoint of round 3, 'shared.accumulator.down.bias' is float64 of shape
    (24,), not float32 of shape (24,); it was changed after it was written, so resume from
    another copy.
resume={files}/runs/nan
    resume: in the checkpoint of round 3, 'shared.accumulator.down.bias' holds values that are
    not finite; it was changed after it was written, so resume from another copy.
resume={files}/runs/no-metrics
    resume: {files}/runs/no-metrics lacks metrics.jsonl, the record of its first rounds; copy
    the whole output folder.
resume={files}/runs/no-clients
    resume: {files}/runs/no-clients lacks clients.jsonl, the record of its first rounds; copy
    the whole output folder.
resume={files}/runs/metrics-binary
    resume: metrics.jsonl in {files}/runs/metrics-binary is not the record of a run; restore the
    file, or give another run.
resume={files}/runs/metrics-foreign
    resume: metrics.jsonl in {files}/runs/metrics-foreign is not the record of a run; restore
    the file, or give another run.
""")

COMPARE = read("""
--output {tmp}
    a comparison takes two runs or more, and 0 were given; list their output folders.
{files}/runs/sound
    a comparison takes two runs or more, and 1 was given; list their output folders.
{files}/runs/sound {files}/runs/sound/
    a comparison takes two runs or more, and 1 was given; list their output folders.
{files}/runs/sound {files}/runs/gone
    there is no folder {files}/runs/gone; give the output-dir of a finished run.
{files}/runs/sound {files}/runs/file
    there is no folder {files}/runs/file; give the output-dir of a finished run.
{files}/runs/sound {files}/runs/not-a-run
    {files}/runs/not-a-run has no summary.json; give the output-dir of a run that has finished.
{files}/runs/sound {files}/runs/no-summary
    {files}/runs/no-summary has no summary.json; give the output-dir of a run that has finished.
{files}/runs/sound {files}/runs/summary-foreign
    {files}/runs/summary-foreign holds no record that fedgraft wrote (TypeError: list indices
    must be integers or slices, not str); give the output-dir of another run.
{files}/runs/sound {files}/runs/settings-binary
    {files}/runs/settings-binary/settings.toml is no TOML file: 'utf-8' codec can't decode byte
    0xff in position 0: invalid start byte.
""")

PREDICT = read("""
--adapters {files}/out/adapters
    give either a folder of images or --measure.
{files}/data/gone --adapters {files}/out/adapters
    there is no folder {files}/data/gone; give one that holds images.
{files}/data/two --adapters {files}/runs
    adapters: there is no file {files}/runs/adapters.json; give the folder adapters/ of a
    finished run.
{files}/data/two --adapters {files}/out/adapters --confidence 2
    confidence: 2.0 is no probability; give 0 to 1.
{files}/data/two --adapters {files}/out/adapters --milliseconds nan
    milliseconds: nan is no budget; give more than 0.
{files}/data/two --adapters {files}/out/adapters --backbone {files}/backbones/bert
    backbone: {files}/backbones/bert is of type 'bert'; give a ViT or a DeiT.
{files}/data/two --adapters {files}/out/adapters --exit 3
    exit: there is none after block 3; choose one of 2, 4, 6.
{files}/data/torn --adapters {files}/out/adapters
    {files}/data/torn/ape/0.png cannot be read as an image (cannot identify image file
    '{files}/data/torn/ape/0.png'); replace or remove it.
""")
