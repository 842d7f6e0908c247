"""The table of bad input, third part: where settings lead to wrong files (tests/bad_files.py)."""

from __future__ import annotations

from bad_settings import read

BACKBONES = read("""
backbone=
    backbone: give a folder, a hub id or 'builtin'.
backbone=' '
    backbone: give a folder, a hub id or 'builtin'.
backbone=/no/such/folder
    backbone: there is no model in /no/such/folder (config.json is missing); give a folder in
    Hugging Face's form, a hub id, or 'builtin'.
backbone=nobody/nothing
    backbone: the files of 'nobody/nothing' are neither in a folder of that name nor in the
    hub's cache, and could not be downloaded; give an existing folder, download them once with a
    connection (hf download nobody/nothing), or use 'builtin'.
backbone=~nobody-here/vit
    backbone: '~nobody-here/vit' is no path here (Could not determine home directory); correct
    it.
backbone={vit}/config.json
    backbone: there is no model in {vit}/config.json (config.json is missing); give a folder in
    Hugging Face's form, a hub id, or 'builtin'.
backbone={files}/backbones/no-config
    backbone: there is no model in {files}/backbones/no-config (config.json is missing); give a
    folder in Hugging Face's form, a hub id, or 'builtin'.
backbone={files}/backbones/torn-config
    backbone: the files of '{files}/backbones/torn-config' are damaged, do not fit each other,
    or are not of a ViT or DeiT (OSError); download them again, or give others.
backbone={files}/backbones/bert
    backbone: {files}/backbones/bert is of type 'bert'; give a ViT or a DeiT.
backbone={files}/backbones/unknown-type
    backbone: the files of '{files}/backbones/unknown-type' are damaged, do not fit each other,
    or are not of a ViT or DeiT (ValueError); download them again, or give others.
backbone={files}/backbones/untyped
    backbone: the files of '{files}/backbones/untyped' are damaged, do not fit each other, or
    are not of a ViT or DeiT (ValueError); download them again, or give others.
backbone={files}/backbones/own-code
    backbone: the files of '{files}/backbones/own-code' are damaged, do not fit each other, or
    are not of a ViT or DeiT (ValueError); download them again, or give others.
backbone={files}/backbones/wider
    backbone: the files of '{files}/backbones/wider' are damaged, do not fit each other, or are
    not of a ViT or DeiT (RuntimeError); download them again, or give others.
backbone={files}/backbones/deeper
    backbone: {files}/backbones/deeper lacks weights of its own architecture, for example
    'layers.6.attention.k_proj.bias'; it is not a complete vit.
backbone={files}/backbones/no-weights
    backbone: {files}/backbones/no-weights holds no weights as .safetensors; a pickle (.bin,
    .pt) is never read, so convert it, or give another folder.
backbone={files}/backbones/pickle
    backbone: {files}/backbones/pickle holds no weights as .safetensors; a pickle (.bin, .pt) is
    never read, so convert it, or give another folder.
backbone={files}/backbones/torn-weights
    backbone: the files of '{files}/backbones/torn-weights' are damaged, do not fit each other,
    or are not of a ViT or DeiT (SafetensorError); download them again, or give others.
backbone={files}/backbones/renamed-pickle
    backbone: the files of '{files}/backbones/renamed-pickle' are damaged, do not fit each
    other, or are not of a ViT or DeiT (SafetensorError); download them again, or give others.
backbone={files}/backbones/no-pixels
    backbone: {files}/backbones/no-pixels has no readable preprocessor_config.json, which holds
    the mean and the standard deviation its weights expect; add it.
backbone={files}/backbones/zero-std
    backbone: the preprocessor_config.json of {files}/backbones/zero-std has no image_mean, or
    no image_std above 0; correct it.
image-size=4
    image-size 4 is not a multiple of the backbone's patch size 8; try 8.
image-size=20
    image-size 20 is not a multiple of the backbone's patch size 8; try 16.
""")

DATA = read("""
dataset=digit
    dataset: there is no source 'digit'; did you mean digits?
dataset=
    dataset: there is no source ''; choose {sources}.
dataset=cifar10
    dataset: uoft-cs/cifar10 cannot be loaded from the Hugging Face hub (OfflineModeIsEnabled);
    connect this machine to the network, set data-dir to a folder that holds cifar-10-batches-py
    or to an .npz file, or choose dataset "digits".
data-dir={files}/data/two
    data-dir: dataset "digits" comes with scikit-learn and reads nothing from {files}/data/two;
    leave data-dir empty, or choose dataset "folder" for own images.
num-clients=1000
    num-clients: 1000 clients need 2 images each and there are 1437; lower num-clients to 718 or
    less.
partition=natural
    partition: natural needs images that name their owner, as dataset "femnist" has them, and
    "folder" in client/class folders; choose another partition.
partition=pathological classes-per-client=11
    classes-per-client: 11 must be 1 to 10, the number of classes with images.
client-test=central
    client-test: central needs a partition that divides two sets alike, which dirichlet does not;
    set partition to dirichlet-equal, or client-test to split.
normalise=dataset
    normalise: dataset 'digits' comes without a mean and a standard deviation of its own, or is
    not on this machine; set normalise to "backbone".
dataset=folder
    data-dir: dataset "folder" needs one; expected are images at class/image.png or at
    client/class/image.png below it, or such folders inside train/ and test/.
dataset=folder data-dir=' '
    data-dir: ' ' is no path here (it is empty); correct it.
dataset=folder data-dir={files}/data/gone
    data-dir: there is no folder {files}/data/gone; expected are images at class/image.png or at
    client/class/image.png below it, or such folders inside train/ and test/.
dataset=folder data-dir={files}/data/two/ape/0.png
    data-dir: there is no folder {files}/data/two/ape/0.png; expected are images at
    class/image.png or at client/class/image.png below it, or such folders inside train/ and
    test/.
dataset=folder data-dir={files}/data/empty
    data-dir: {files}/data/empty holds no images where they are looked for; expected are images
    at class/image.png or at client/class/image.png below it, or such folders inside train/ and
    test/.
dataset=folder data-dir={files}/data/flat
    data-dir: {files}/data/flat holds no images where they are looked for; expected are images
    at class/image.png or at client/class/image.png below it, or such folders inside train/ and
    test/.
dataset=folder data-dir={files}/data/one-class
    classes: with 1 there is nothing to tell apart; give data of two or more, or name all
    classes of the federation in the setting.
dataset=folder data-dir={files}/data/torn
    data-dir: {files}/data/torn/ape/0.png cannot be read as an image (cannot identify image file
    '{files}/data/torn/ape/0.png'); replace or remove it.
dataset=folder data-dir={files}/data/few
    num-clients: 4 clients need 2 images each and there are 1; add images.
dataset=folder data-dir={files}/data/two num-clients=100
    num-clients: 100 clients need 2 images each and there are 12; lower num-clients to 6 or
    less.
dataset=folder data-dir={files}/data/two classes=ape,cat
    classes: the data hold 'bee', which is not among ape, cat; add it to the setting, or rename
    or remove it in the data.
dataset=cifar10 data-dir={files}/data/gone
    data-dir: {files}/data/gone is neither a folder that holds cifar-10-batches-py nor an .npz
    file; correct it, or leave it empty to load the data set from the Hugging Face hub.
dataset=cifar10 data-dir={files}/data/junk.npz
    data-dir: {files}/data/junk.npz is neither a folder that holds cifar-10-batches-py nor an
    .npz file; correct it, or leave it empty to load the data set from the Hugging Face hub.
dataset=cifar10 data-dir={files}/data/altered
    data-dir: {files}/data/altered holds no cifar-10-batches-py, or one that is incomplete or
    altered; unpack the original archive there.
dataset=cifar10 data-dir={files}/data/keys.npz
    data-dir: {files}/data/keys.npz must hold the arrays train_images, train_labels,
    test_images, test_labels, classes, or for encoded images bytes, offsets, labels, classes; it
    holds train_labels, test_images, test_labels, classes.
dataset=cifar10 data-dir={files}/data/pickle.npz
    data-dir: {files}/data/pickle.npz is damaged or holds more than plain arrays; write it again
    with numpy.savez.
dataset=cifar10 data-dir={files}/data/floats.npz
    images must be uint8 of shape (N, H, W, 1 or 3), not float64 of shape (6, 4, 4, 3); convert
    them in the source.
dataset=cifar10 data-dir={files}/data/labels-beyond.npz
    labels run from 0 to 5, but 2 classes allow 0 to 1; correct the labels or the list of
    classes.
dataset=cifar10 data-dir={files}/data/labels-of-text.npz
    data-dir: train_labels in {files}/data/labels-of-text.npz are <U1, not whole numbers; write
    it again.
dataset=cifar10 data-dir={files}/data/labels-with-fractions.npz
    data-dir: train_labels in {files}/data/labels-with-fractions.npz are float64, not whole
    numbers; write it again.
dataset=cifar10 data-dir={files}/data/labels-nested.npz
    labels must be int64 of shape (6,), one per image, not int64 of shape (6, 1); convert them
    in the source.
dataset=cifar10 data-dir={files}/data/one-name.npz
    data-dir: classes in {files}/data/one-name.npz are no list; write it again.
dataset=cifar10 data-dir={files}/data/no-images.npz
    dataset: 'cifar10' holds no images to train on; add some.
dataset=cifar10 data-dir={files}/data/offsets.npz
    data-dir: offsets in {files}/data/offsets.npz are float64, not whole numbers; write it
    again.
dataset=femnist data-dir={files}/data/gone
    data-dir: there is no folder {files}/data/gone; expected is a folder of LEAF's JSON files or
    of the hub's parquet files.
dataset=femnist data-dir={files}/data/empty
    data-dir: {files}/data/empty holds no .json files; put those of LEAF there.
dataset=femnist data-dir={files}/data/parquet
    data-dir: the parquet files in {files}/data/parquet are damaged or lack one of the columns
    image, writer_id, character; download flwrlabs/femnist again.
dataset=femnist data-dir={files}/data/leaf-torn
    data-dir: {files}/data/leaf-torn/users.json is damaged or not in LEAF's form, a JSON object
    with user_data; write it again.
dataset=femnist data-dir={files}/data/leaf-list
    data-dir: {files}/data/leaf-list/users.json is damaged or not in LEAF's form, a JSON object
    with user_data; write it again.
dataset=femnist data-dir={files}/data/leaf-no-users
    data-dir: the .json files in {files}/data/leaf-no-users name no user; write them again.
dataset=femnist data-dir={files}/data/leaf-small
    data-dir: user 'ann' of {files}/data/leaf-small/users.json does not hold x with 784 numbers
    per image and y with one label per image; write the file again.
dataset=femnist data-dir={files}/data/leaf-bright
    data-dir: user 'ann' of {files}/data/leaf-bright/users.json has gray levels that are not
    from 0 to 1; divide them by the largest that can occur.
dataset=femnist data-dir={files}/data/leaf-label
    data-dir: user 'ann' of {files}/data/leaf-label/users.json has labels that are not whole
    numbers from 0 to 61; write the file again.
dataset=femnist data-dir={files}/data/leaf-two-writers partition=natural
    num-clients: 4 is more than the 2 owners in the data; lower num-clients to 2 or less.
""")
