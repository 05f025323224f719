"""Lottery tickets: magnitude masks, rewound subnets, network slimming and Early-Bird tickets."""
