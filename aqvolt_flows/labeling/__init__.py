"""The stage labeling: one single point a frame, at one theory level, each outcome a document.

Start with :func:`aqvolt_flows.labeling.labelers.labeler_maker` and
:func:`aqvolt_flows.labeling.protocols.protocol_for`.
"""
