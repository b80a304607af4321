"""What belongs to the demo alone: how its small VLM, which nobody pretrained, learns to see the things of the cell.

`sight` writes into its first weights that words of colours and hands look at pixels; `pointing` is its first stage of
training, on recordings and on what `drawings` draws; `start` makes the VLM that training from scratch begins with.
"""
