"""The clips: their texts and scenes, the processes that draw them, and the rings on the device that hold them."""
