"""The servers that ours is measured against, each as its own guide writes it: one worker, its defaults.

All answer one image, base64 in JSON, with the probabilities of one network: `network.py`.
"""
