"""`make validate-deploy`: whether what is in deploy/ would be taken by those who run it, without any of them.

Every check takes the folder that holds the project and returns what is wrong, so that tests can give it a copy that is
broken on purpose. Nothing here changes a file or asks a network.
"""
